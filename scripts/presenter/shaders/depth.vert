uniform mat4 to_clip;
in vec3 in_position;
in vec2 in_uv;
out vec2 uv;

void main() {
    uv = in_uv;
    gl_Position = to_clip * vec4(in_position, 1.0);
}
