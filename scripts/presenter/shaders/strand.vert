// A hair as a ribbon that faces the camera, lit once a vertex: along a hair the light changes slowly.
uniform mat4 to_clip;
uniform vec3 tint;
uniform vec3 middle;  // of the head
uniform float width;  // decimetres
in vec3 in_position;
in vec3 in_along;
in vec2 in_uv;  // -1 or 1 across; 0 root .. 1 tip
in float in_chance;
in float in_open;

out vec3 shade;

void main() {
    vec3 position = in_position;
    vec3 v = normalize(eye - position), t = normalize(in_along), outward = normalize(position - middle);
    vec3 n = normalize(outward - t * dot(outward, t) * 0.8 + v * 0.25);
    float sun = lit(position + n * 0.02, n, 9.0, 14);
    vec3 albedo = tint * mix(0.62, 1.42, in_chance) * mix(0.75, 1.25, smoothstep(0.0, 1.0, in_uv.y));
    float deep = in_open * (0.25 + 0.75 * in_open);
    vec3 light = key_colour * max((dot(n, key_direction) + 0.35) / 1.35, 0.0) * sun;
    light += 0.05 + fill_colour * max((dot(n, fill_direction) + 0.35) / 1.35, 0.0) * in_open + ambient(n) * deep * 1.1;
    vec3 c = albedo * light;
    float shift = (in_chance - 0.5) * 0.16;
    float white = fibre(t, key_direction, v, n, 0.10 + shift, 110.0);
    float warm = fibre(t, key_direction, v, n, -0.10 + shift, 26.0);
    float facing = clamp(dot(n, key_direction) * 1.2 + 0.3, 0.0, 1.0);
    c += key_colour * sun * facing * (white * 0.045 + warm * albedo * 1.1);
    c += fill_colour * in_open * fibre(t, fill_direction, v, n, shift, 30.0) * (albedo * 0.8 + 0.006);
    c += rim_colour * rims(n) * pow(1.0 - max(dot(outward, v), 0.0), 2.0) * (albedo * 2.2 + 0.015) * deep;
    shade = film(c);
    vec3 side = normalize(cross(t, v));
    float taper = mix(1.0, 0.35, smoothstep(0.7, 1.0, in_uv.y)) * mix(0.35, 1.0, smoothstep(0.0, 0.12, in_uv.y));
    gl_Position = to_clip * vec4(position + side * in_uv.x * width * taper * (0.7 + 0.6 * in_chance) * 0.5, 1.0);
}
