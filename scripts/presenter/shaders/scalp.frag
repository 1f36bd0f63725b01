// The skin under grown hair: dark, so that gaps between strands look like depth.
uniform vec3 tint;

void main() {
    vec3 n = normalize(normal);
    vec3 light = (key_colour * max(dot(n, key_direction), 0.0) * lit(position, n, 3.0, 6) + ambient(n)) * open;
    colour = vec4(film(tint * 0.45 * light), 1.0);
}
