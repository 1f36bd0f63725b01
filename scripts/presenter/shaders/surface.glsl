// What every surface fragment gets and gives.
in vec3 position;
in vec3 normal;
in vec3 along;
in vec2 uv;
in float open;
out vec4 colour;

