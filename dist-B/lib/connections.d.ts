import type { FastifyReply } from 'fastify';
import type { Server } from 'node:net';
/** On a reply: the one that came behind it on the same socket (a pipeline). */
declare const kNext: unique symbol;
interface Linked extends FastifyReply {
    [kNext]?: Linked;
}
export declare class Connections {
    #private;
    /** @param onGone is told of each reply whose client is gone before the reply was over (HTTP/1) */
    constructor(onGone: (reply: FastifyReply) => void);
    /** Takes charge of a listener's connections. */
    adopt(server: Server): void;
    /** Whether any listener takes connections. */
    get listening(): boolean;
    /** A request has come in. On HTTP/2, Fastify's onResponse tells of every ending; nothing to do. */
    opened(reply: Linked): void;
    /** A response is over. Those of one socket end in the order in which they came. */
    ended(reply: Linked): void;
    /**
     * The last exchange on its connection: the response says `Connection: close`, or the session GOAWAY.
     * Of a pipeline only the last response may say it: Node drops what comes behind one that does.
     */
    closeAfter(reply: Linked): void;
    /** The shutdown starts: who is being answered is told that it is the last time. Idle connections stay usable. */
    lastCall(): void;
    /**
     * Stops listening and closes every connection that speaks HTTP. Nothing counted is in flight any more; what
     * else is being answered (a refusal, a probe) has `grace` milliseconds to be read.
     * Upgraded sockets stay: their owners may still say goodbye.
     */
    close(grace: number): Promise<void>;
    /** Destroys what is left: upgraded sockets that nobody closed. */
    destroy(): void;
}
export {};
