import type { FastifyReply, FastifyRequest } from 'fastify';
import type { IncomingMessage } from 'node:http';
import type { Connections } from './connections.ts';
import type { PhaseClock } from './phase.ts';
/** Whether a request asks for another protocol and somebody listens for that; Node sets the field, its types lack it. */
export declare function isUpgrade(raw: IncomingMessage): boolean;
export declare class Gate {
    #private;
    /** Requests refused. */
    refused: number;
    constructor(phase: PhaseClock, connections: Connections);
    /** Whether this request may go on; if not, it has been answered. Not for the phase `running`. */
    admits(request: FastifyRequest, reply: FastifyReply): boolean;
}
