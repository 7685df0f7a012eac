import type { FastifyError } from '@fastify/error';
import createError from '@fastify/error';
/** An option, of the plugin, of a route or of a callback, is not what it may be. */
export declare const OptionInvalidError: createError.FastifyErrorConstructor<{
    code: string;
}, [option: string, value: string, allowed: string]>;
/** An option that does not exist, mostly a typo. */
export declare const OptionUnknownError: createError.FastifyErrorConstructor<{
    code: string;
}, [option: string, known: string]>;
/** The times do not fit into each other. */
export declare const BudgetError: createError.FastifyErrorConstructor<{
    code: string;
}, [delay: number, drain: number, shutdown: number]>;
/** A probe's path is taken by the other probe or by a route. */
export declare const ProbePathError: createError.FastifyErrorConstructor<{
    code: string;
}, [option: string, path: string, owner: string]>;
/** One server shuts down once, with one set of options. */
export declare const AlreadyRegisteredError: createError.FastifyErrorConstructor<{
    code: "FST_ERR_GRACEFUL_ALREADY_REGISTERED";
}, [any?, any?, any?]>;
export declare const CallbackInvalidError: createError.FastifyErrorConstructor<{
    code: string;
}, [value: string]>;
export declare const CallbackTooLateError: createError.FastifyErrorConstructor<{
    code: string;
}, [name: string]>;
export declare const CallbackTimeoutError: createError.FastifyErrorConstructor<{
    code: string;
}, [name: string, limit: number]>;
export declare const CloseTimeoutError: createError.FastifyErrorConstructor<{
    code: string;
}, [limit: number]>;
export declare const TrackInvalidError: createError.FastifyErrorConstructor<{
    code: string;
}, [value: string]>;
/** What a client reads whose request came too late. */
export declare const ShuttingDownError: createError.FastifyErrorConstructor<{
    code: "FST_ERR_GRACEFUL_SHUTTING_DOWN";
    statusCode: 503;
}, [any?, any?, any?]>;
/** What a client reads whose response made no progress for `writeTimeout`. */
export declare const WriteTimeoutError: createError.FastifyErrorConstructor<{
    code: string;
}, [limit: number]>;
/** What an HTTP/2 client reads that did not send its request within `readTimeout`; on HTTP/1, Node answers. */
export declare const ReadTimeoutError: createError.FastifyErrorConstructor<{
    code: string;
}, [limit: number]>;
/** What a client reads whose request was still in flight when the drain timeout came. */
export declare const DrainTimeoutError: createError.FastifyErrorConstructor<{
    code: string;
}, [limit: number]>;
/** An error in the shape in which Fastify sends it. */
export declare function errorBody({ statusCode, code, message }: FastifyError): string;
/** Anything may be thrown. */
export declare function toError(thrown: unknown): Error;
