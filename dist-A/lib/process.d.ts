import type { FastifyBaseLogger } from 'fastify';
import type { ProcessEvent, ShutdownReport } from '../types/index.ts';
/** An instance that goes down with the process. */
export interface Member {
    readonly signals: readonly ProcessEvent[];
    readonly shutdownTimeout: number;
    readonly log: FastifyBaseLogger;
    readonly shutdown: (reason: string, errors: Error[]) => Promise<ShutdownReport>;
}
/** From now on, this instance shuts down when the process is told to. */
export declare function join(member: Member): void;
/** The instance no longer listens. */
export declare function leave(member: Member): void;
