uniform sampler2D picture;
uniform sampler2D relief_map;
uniform vec3 tint;
uniform float plain;  // 1 takes the tint alone for colour

vec3 relief(vec3 n) {
    vec3 px = dFdx(position), py = dFdy(position);
    vec2 tx = dFdx(uv), ty = dFdy(uv);
    vec3 t = cross(py, n) * tx.x + cross(n, px) * ty.x, b = cross(py, n) * tx.y + cross(n, px) * ty.y;
    float size = inversesqrt(max(max(dot(t, t), dot(b, b)), 1e-20));
    vec3 m = texture(relief_map, uv).xyz * 2.0 - 1.0;
    return normalize(t * size * m.x - b * size * m.y + n * m.z);
}

void main() {
    vec3 n = relief(normalize(gl_FrontFacing ? normal : -normal)), v = normalize(eye - position);
    vec3 own = linear(texture(picture, uv).rgb);
    vec3 albedo = mix(own * tint, tint * mix(1.0, luminance(own) * 2.0, 0.1), plain);
    float shade = lit(position, n, 6.0, 16);
    vec3 light = key_colour * max((dot(n, key_direction) + 0.12) / 1.12, 0.0) * shade * mix(1.0, open, 0.4);
    light += (fill_colour * max(dot(n, fill_direction), 0.0) + ambient(n) + rim_colour * 0.4 * rims(n)) * open;
    vec3 sheen = (key_colour * shade + sky) * 0.05 * pow(1.0 - max(dot(n, v), 0.0), 3.0) * open;
    vec3 c = albedo * light + sheen * (albedo + 0.05) + key_colour * gloss(n, key_direction, v, 0.6, 0.03) * shade * 0.5;
    colour = vec4(film(c), 1.0);
}
