uniform sampler2D picture;
uniform vec3 tint;
const vec2 IRISES[2] = vec2[2](vec2(0.289, 0.713), vec2(0.707, 0.298));

void main() {
    vec4 texel = texture(picture, uv);
    if (texel.a < 0.5) discard;
    vec3 n = normalize(normal);
    float away = min(distance(uv, IRISES[0]), distance(uv, IRISES[1])) / 0.115;
    float iris = 1.0 - smoothstep(0.93, 1.02, away);
    vec3 albedo = linear(texel.rgb);
    vec3 white = mix(vec3(luminance(albedo)), albedo, 0.75) * vec3(0.80, 0.77, 0.74);
    albedo = mix(white, luminance(albedo) * 4.0 * tint * mix(1.25, 0.75, smoothstep(0.55, 1.0, away)), iris);
    float shade = lit(position, n, 4.0, 12) * smoothstep(0.15, 0.9, open);
    vec3 light = key_colour * max((dot(n, key_direction) + 0.25) / 1.25, 0.0) * shade * 0.8;
    light += (fill_colour * max((dot(n, fill_direction) + 0.3) / 1.3, 0.0) + ambient(n)) * open;
    colour = vec4(film(albedo * 0.75 * light), 1.0);
}
