uniform sampler2D picture;
uniform float cut;  // alpha below it lets light through
in vec2 uv;

void main() {
    if (texture(picture, uv).a < cut) discard;
}
