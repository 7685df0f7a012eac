// Cutting off who took too long: its client is told where it still can be, and it is named in log and report.
import { constants } from 'node:http2';
import { errorBody } from './errors.js';
import { describe } from './in-flight.js';
export class Cuts {
    #phase;
    #inFlight;
    #log;
    #logged = new WeakSet();
    #reported = new Map();
    constructor(phase, inFlight, log) {
        this.#phase = phase;
        this.#inFlight = inFlight;
        this.#log = log;
    }
    /** Who was cut since the shutdown began. */
    get list() {
        return [...this.#reported.values()];
    }
    /** Ends a request in its handler's place. The handler itself cannot be stopped, and counts until it settles. */
    cut(reply, error) {
        this.#name(reply, error);
        if (this.#inFlight.isOrphan(reply)) {
            // Answered before, but not read.
            if (!reply.raw.writableFinished)
                abort(reply);
        }
        else if (reply.sent || reply.raw.headersSent) {
            abort(reply);
        }
        else {
            if (reply.request.raw.httpVersionMajor !== 2)
                reply.raw.setHeader('connection', 'close');
            // As text: an Error would go through the user's error handler and be logged a second time.
            reply.code(error.statusCode).type('application/json; charset=utf-8').send(errorBody(error));
            this.#inFlight.abandon(reply);
        }
    }
    /** Cuts everybody who is in flight; background work can only be named. */
    cutAll(error) {
        for (const reply of this.#inFlight.replies())
            this.cut(reply, error);
        for (const task of this.#inFlight.listTasks()) {
            this.#reported.set(task, task);
            this.#log.error({ ...task, code: error.code }, `Background work cut: ${task.name}`);
        }
    }
    #name(reply, error) {
        const entry = describe(reply);
        if (this.#phase.current !== 'running' && !this.#reported.has(reply))
            this.#reported.set(reply, entry);
        if (this.#logged.has(reply))
            return;
        this.#logged.add(reply);
        this.#log.error({ ...entry, code: error.code }, `Request cut: ${error.message}`);
    }
}
function abort(reply) {
    if (reply.request.raw.httpVersionMajor === 2) {
        reply.raw.stream.close(constants.NGHTTP2_INTERNAL_ERROR);
    }
    else {
        reply.raw.destroy();
    }
}
