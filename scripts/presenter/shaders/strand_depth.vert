uniform mat4 to_clip;
uniform float width;
in vec3 in_position;
in vec3 in_along;
in vec2 in_uv;

void main() {
    vec3 toward = vec3(to_clip[0][2], to_clip[1][2], to_clip[2][2]);
    vec3 side = normalize(cross(in_along, toward));
    gl_Position = to_clip * vec4(in_position + side * in_uv.x * width * 0.5, 1.0);
}
