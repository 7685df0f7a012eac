import type { FastifyReply, RouteHandlerMethod } from 'fastify';
import type { InFlightEntry, RequestInFlight, TaskInFlight } from '../types/index.ts';
/** The reply's place among the requests in flight; ENDED once it has left. */
declare const kSlot: unique symbol;
/** What its handler returned: a promise tells when it settles. */
declare const kReturned: unique symbol;
/** When its client was gone, or was answered in its handler's place. */
declare const kOrphaned: unique symbol;
interface Entry extends FastifyReply {
    [kSlot]?: number;
    [kReturned]?: unknown;
    [kOrphaned]?: number;
}
export declare class InFlight {
    #private;
    /** Requests that left with a finished response. */
    finished: number;
    /** Requests in flight. */
    get count(): number;
    /** Background work in flight. */
    get tasks(): number;
    /** Counts a request. */
    enter(reply: Entry): void;
    /** Counts it no more; false for one that was never counted or has left before. */
    leave(reply: Entry): boolean;
    /**
     * The response is over. On HTTP/2, Node says so after an abort, too: then the response has not
     * been ended, and its handler may still run.
     */
    responded(reply: Entry): void;
    /** The client is gone. The request counts until its handler settles; a hijacked one is over. */
    orphan(reply: Entry): void;
    /** The client has been answered in its handler's place. The request counts until the handler settles. */
    abandon(reply: Entry): void;
    /**
     * A route's handler that keeps what it returns, so that an abandoned request's end can be told.
     * Routes registered before the plugin go without; theirs is told by their answer alone.
     */
    observe(handler: RouteHandlerMethod): RouteHandlerMethod;
    /**
     * How long ago the client of a request went whose handler gives no sign when it settles (callback style);
     * undefined for all others.
     */
    unheardFor(reply: Entry): number | undefined;
    /** Whether nobody is waiting for this request's response any more. */
    isOrphan(reply: Entry): boolean;
    track<T extends PromiseLike<unknown>>(promise: T, name: string): T;
    /** The replies in flight, as they are now: a copy, to go through while requests leave. */
    replies(): FastifyReply[];
    listTasks(): TaskInFlight[];
    /** Everybody in flight: requests, oldest first, then background work. */
    list(): InFlightEntry[];
    /** Resolves to true once nobody is in flight, to false when the time is up. */
    idle(timeout: number): Promise<boolean>;
}
/** Who a request is, in log and report. */
export declare function describe(reply: FastifyReply): RequestInFlight;
export declare function isPromise(value: unknown): value is PromiseLike<unknown>;
export {};
