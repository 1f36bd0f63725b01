// Teeth and tongue, darker the deeper they lie.
uniform sampler2D picture;
uniform vec3 tint;
uniform float lips;  // z of the lips

void main() {
    vec3 n = normalize(normal), v = normalize(eye - position);
    float deep = clamp((lips - position.z) / 1.0, 0.0, 1.0);
    vec3 albedo = linear(texture(picture, uv).rgb) * tint * mix(1.0, 0.12, deep);
    vec3 light = (key_colour * max(dot(n, key_direction), 0.0) * 0.5 + fill_colour * 0.5 + ambient(n)) * open;
    vec3 c = albedo * light + gloss(n, key_direction, v, 0.2, 0.04) * 0.5 * open;
    colour = vec4(film(c), 1.0);
}
