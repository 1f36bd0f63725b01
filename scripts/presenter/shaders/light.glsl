// The studio: a soft key from upper left, a cool fill, two rims from behind, sky and ground; and the film.
uniform vec3 key_colour = vec3(1.0, 0.93, 0.86) * 2.15;
uniform vec3 fill_direction = normalize(vec3(0.85, 0.12, 0.62));
uniform vec3 fill_colour = vec3(0.82, 0.90, 1.0) * 0.48;
uniform vec3 rim_colour = vec3(1.0, 0.97, 0.94) * 0.75;
uniform vec3 sky = vec3(0.93, 0.97, 1.0) * 0.38;
uniform vec3 ground = vec3(0.55, 0.44, 0.37) * 0.32;

uniform vec3 key_direction;
uniform vec3 eye;
uniform mat4 to_shadow;
uniform sampler2DShadow shadow_map;
uniform int shadow_taps = 24;

vec3 linear(vec3 srgb) { return pow(srgb, vec3(2.2)); }
float luminance(vec3 c) { return dot(c, vec3(0.2126, 0.7152, 0.0722)); }

// How much of the key light arrives at `position`: `taps` on a spiral disc of `radius` shadow texels.
float lit(vec3 position, vec3 n, float radius, int taps) {
    vec3 p = (to_shadow * vec4(position + n * 0.022, 1.0)).xyz * 0.5 + 0.5;
    float texel = radius / float(textureSize(shadow_map, 0).x), sum = 0.0;
    for (int i = 0; i < taps; i++) {
        float away = sqrt((float(i) + 0.5) / float(taps)), angle = float(i) * 2.39996;
        sum += texture(shadow_map, vec3(p.xy + vec2(cos(angle), sin(angle)) * away * texel, p.z - 0.0012));
    }
    return sum / float(taps);
}

vec3 ambient(vec3 n) { return mix(ground, sky, n.y * 0.5 + 0.5); }

float rims(vec3 n) {
    return max(dot(n, normalize(vec3(0.75, 0.35, -0.62))), 0.0) + max(dot(n, normalize(vec3(-0.75, 0.35, -0.62))), 0.0);
}

// GGX reflection of one light.
float gloss(vec3 n, vec3 l, vec3 v, float roughness, float f0) {
    vec3 h = normalize(l + v);
    float nl = max(dot(n, l), 0.0), nv = max(dot(n, v), 1e-3), nh = max(dot(n, h), 0.0);
    float a2 = pow(roughness, 4.0);
    float d = a2 / (3.14159 * pow(nh * nh * (a2 - 1.0) + 1.0, 2.0));
    float k = (roughness + 1.0) * (roughness + 1.0) / 8.0;
    float g = 1.0 / ((nl * (1.0 - k) + k) * (nv * (1.0 - k) + k));
    float f = f0 + (1.0 - f0) * pow(1.0 - max(dot(h, v), 0.0), 5.0);
    return nl * d * g * f * 0.25;
}

// Light reflected along a hair of direction `t`, the cone tilted by `shift` (Kajiya and Kay 1989).
float fibre(vec3 t, vec3 l, vec3 v, vec3 n, float shift, float power) {
    float th = dot(normalize(t + n * shift), normalize(l + v));
    return pow(max(1.0 - th * th, 0.0), power * 0.5);
}

vec3 film(vec3 x) {
    x = x * (1.0 + x / 9.0) / (1.0 + 0.62 * x);
    x = max(mix(vec3(luminance(x)), x, 1.08), 0.0);
    x = pow(x, vec3(1.0 / 2.2));
    return mix(x, x * x * (3.0 - 2.0 * x), 0.22);
}
