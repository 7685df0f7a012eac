import type { FastifyInstance } from 'fastify';
import type { GracefulOptions } from './types/index.ts';
declare function graceful(fastify: FastifyInstance, input: GracefulOptions): Promise<void>;
declare const plugin: typeof graceful;
export { plugin as default, plugin as gracefulPlugin, plugin as 'module.exports' };
export type * from './types/index.ts';
