// Brows and lashes.
uniform sampler2D picture;
uniform vec3 tint;

void main() {
    float alpha = texture(picture, uv).a;
    vec3 n = normalize(normal);
    vec3 light = key_colour * 0.5 * lit(position, n, 3.0, 6) + ambient(n) + fill_colour * 0.3;
    colour = vec4(film(tint * light), alpha);
}
