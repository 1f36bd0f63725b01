out vec2 at;

void main() {
    at = vec2(gl_VertexID % 2, gl_VertexID / 2) * 4.0 - 1.0;
    gl_Position = vec4(at, 0.99999, 1.0);
}
