uniform sampler2D picture;
uniform vec3 tint;

// The normal with the picture's own luminance as relief.
vec3 relief(vec3 n, float strength) {
    vec3 px = dFdx(position), py = dFdy(position);
    vec2 tx = dFdx(uv), ty = dFdy(uv);
    float h = luminance(texture(picture, uv).rgb);
    float hx = luminance(texture(picture, uv + tx).rgb) - h, hy = luminance(texture(picture, uv + ty).rgb) - h;
    vec3 r1 = cross(py, n), r2 = cross(n, px);
    float det = dot(px, r1);
    vec3 gradient = sign(det) * (hx * r1 + hy * r2) * strength;
    return normalize(abs(det) * n - gradient);
}

vec3 wrapped(float nl) {
    const vec3 w = vec3(0.34, 0.16, 0.09);
    return max((nl + w) / (1.0 + w), 0.0);
}

void main() {
    vec3 n = normalize(normal), v = normalize(eye - position);
    vec3 fine = relief(n, 0.016);
    vec3 albedo = linear(texture(picture, uv).rgb) * tint * 0.62;
    vec3 occlusion = pow(vec3(open), vec3(0.72, 0.95, 1.05));
    vec3 soft = mix(fine, n, 0.5);
    vec3 shade = pow(vec3(lit(position, n, 8.0, shadow_taps)), vec3(0.72, 0.95, 1.0));
    vec3 light = key_colour * wrapped(dot(soft, key_direction)) * shade * mix(vec3(1.0), occlusion, 0.35);
    light += fill_colour * wrapped(dot(soft, fill_direction)) * occlusion;
    light += rim_colour * 0.5 * rims(n) * open;
    light += ambient(soft) * occlusion;
    vec3 c = albedo * light;
    float key = gloss(fine, key_direction, v, 0.46, 0.028) * 0.62 + gloss(fine, key_direction, v, 0.30, 0.028) * 0.13;
    float fill = gloss(fine, fill_direction, v, 0.46, 0.028);
    c += key_colour * key * shade.g * open + fill_colour * fill * open * open;
    c += rim_colour * 0.06 * pow(1.0 - max(dot(n, v), 0.0), 4.0) * open;
    colour = vec4(film(c), 1.0);
}
