// The public types, and what the plugin adds to Fastify's own.
export {};
