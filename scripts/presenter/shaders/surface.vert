// Every drawn surface: world position, normal, strand direction, texture coordinate and baked occlusion.
uniform mat4 to_clip;
uniform float pull;  // towards the camera, normalised device depth
in vec3 in_position;
in vec3 in_normal;
in vec3 in_along;
in vec2 in_uv;
in float in_open;
out vec3 position;
out vec3 normal;
out vec3 along;
out vec2 uv;
out float open;

void main() {
    position = in_position;
    normal = in_normal;
    along = in_along;
    uv = in_uv;
    open = in_open;
    gl_Position = to_clip * vec4(in_position, 1.0);
    gl_Position.z -= pull * gl_Position.w;
}
