uniform sampler2D picture;
uniform vec3 tint;
uniform vec3 middle;  // of the head
uniform float mean;  // luminance of the picture
uniform int stage;  // 0 the opaque core, 1 the soft rest

void main() {
    vec4 texel = texture(picture, uv);
    float alpha = min(texel.a * 1.15, 1.0);
    if (stage == 0 ? alpha < 0.8 : alpha >= 0.8 || alpha < 0.02) discard;
    vec3 v = normalize(eye - position), outward = normalize(position - middle);
    vec3 n = normalize(mix(gl_FrontFacing ? normalize(normal) : -normalize(normal), outward, 0.6));
    vec3 t = normalize(along);
    float own = luminance(linear(texel.rgb)) / mean;
    vec3 albedo = tint * clamp(own, 0.25, 2.2);
    float shade = lit(position, n, 3.0, 8);
    float jitter = (own - 1.0) * 0.08;
    vec3 light = key_colour * max((dot(n, key_direction) + 0.3) / 1.3, 0.0) * shade * 1.2;
    light += (fill_colour * max((dot(n, fill_direction) + 0.3) / 1.3, 0.0) + ambient(n) * 1.2) * open;
    vec3 c = albedo * light;
    float first = fibre(t, key_direction, v, n, 0.05 + jitter, 90.0), second = fibre(t, key_direction, v, n, -0.12 + jitter, 22.0);
    float facing = clamp(dot(n, key_direction) * 1.3 + 0.3, 0.0, 1.0);
    c += key_colour * shade * facing * (first * 0.045 * own + second * albedo * 0.9);
    c += fill_colour * open * fibre(t, fill_direction, v, n, 0.0, 30.0) * (albedo * 0.7 + 0.008);
    c += rim_colour * rims(n) * pow(1.0 - abs(dot(n, v)), 1.5) * (albedo * 2.0 + 0.03) * open;
    colour = vec4(film(c), stage == 0 ? 1.0 : alpha);
}
