// A lit paper roll: bright behind the shoulders, falling off to the edges.
uniform vec3 dark = vec3(0.085, 0.105, 0.125);
uniform vec3 bright = vec3(0.36, 0.41, 0.44);
uniform vec2 brightest = vec2(-0.25, 0.15);
in vec2 at;
out vec4 colour;

float hash(vec2 p) { return fract(sin(dot(p, vec2(12.9898, 78.233))) * 43758.5453); }

void main() {
    float glow = exp(-0.75 * dot(at - brightest, at - brightest));
    vec3 c = mix(dark, bright, glow);
    c += vec3(0.05, 0.035, 0.02) * exp(-2.5 * dot(at - vec2(0.9, -0.5), at - vec2(0.9, -0.5)));
    c = pow(c, vec3(1.0 / 2.2));
    colour = vec4(c + (hash(gl_FragCoord.xy) - 0.5) / 255.0, 1.0);
}
