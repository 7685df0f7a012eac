import type { FastifyInstance } from 'fastify';
import type { GracefulShutdown, ProbeHandler } from '../types/index.ts';
import type { InFlight } from './in-flight.ts';
import type { Probe } from './options.ts';
import type { PhaseClock } from './phase.ts';
type ProbeHandlers = Pick<GracefulShutdown, 'healthHandler' | 'readyHandler' | 'setReady'>;
/** Makes the handlers and the switch behind readiness. */
export declare function createProbes(health: Probe | false, ready: Probe | false, phase: PhaseClock, inFlight: InFlight): ProbeHandlers;
/** Routes a probe, for GET and HEAD. */
export declare function routeProbe(fastify: FastifyInstance, name: 'health' | 'ready', probe: Probe | false, handler: ProbeHandler): void;
export {};
