import type { FastifyInstance } from 'fastify';
import type { Server } from 'node:net';
/** Whether the instance's servers have an owner. */
export declare function isOwned(fastify: FastifyInstance): boolean;
/** Hands each server of the instance to `adopt`, before it listens. */
export declare function adoptServers(fastify: FastifyInstance, adopt: (server: Server) => void): void;
