uniform sampler2D picture;

// A window: a soft rectangle round the direction `to`.
float window(vec3 r, vec3 to, vec2 size) {
    vec3 side = normalize(cross(vec3(0.0, 1.0, 0.0), to)), up = cross(to, side);
    vec2 at = abs(vec2(dot(r, side), dot(r, up))) / size;
    return step(0.0, dot(r, to)) * (1.0 - smoothstep(0.75, 1.15, at.x)) * (1.0 - smoothstep(0.75, 1.15, at.y));
}

void main() {
    if (texture(picture, uv).a >= 0.5) discard;
    vec3 n = normalize(normal), v = normalize(eye - position), r = reflect(-v, n);
    float light = 0.85 * window(r, key_direction, vec2(0.26, 0.34)) + 0.14 * window(r, fill_direction, vec2(0.2, 0.4));
    light += 0.10 * pow(1.0 - max(dot(n, v), 0.0), 3.0);
    colour = vec4(vec3(1.0, 0.99, 0.97), clamp(light * smoothstep(0.1, 0.7, open), 0.0, 1.0));
}
