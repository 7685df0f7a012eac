// Shutdown callbacks: in the order registered, one after another, each within its time, errors kept apart.
import { CallbackInvalidError, CallbackTimeoutError, CallbackTooLateError, toError } from './errors.js';
import { resolveCallbackOptions, show } from './options.js';
import { TIMED_OUT, within } from './within.js';
export class Callbacks {
    #shutdownTimeout;
    #registered = [];
    #started = false;
    constructor(shutdownTimeout) {
        this.#shutdownTimeout = shutdownTimeout;
    }
    register(callback, options = {}) {
        if (typeof callback !== 'function')
            throw new CallbackInvalidError(show(callback));
        const { name, timeout } = resolveCallbackOptions(options, this.#shutdownTimeout);
        const entry = { callback, name: name ?? (callback.name || `callback ${this.#registered.length + 1}`), timeout };
        if (this.#started)
            throw new CallbackTooLateError(entry.name);
        this.#registered.push(entry);
    }
    /** Runs them all. It never rejects: what goes wrong is in the report. */
    async run(reason, deadline, log) {
        this.#started = true;
        const reports = [];
        for (const [index, entry] of this.#registered.entries()) {
            const later = this.#registered.slice(index + 1);
            const limit = share(entry, later, Math.max(0, deadline - performance.now()));
            reports.push(await runOne(entry, limit, reason, log));
        }
        return reports;
    }
}
/**
 * A callback's share of the time that is left: its own timeout, as far as each later one keeps half of its
 * fair share, or a fair share. What a callback does not use is there for the later ones.
 */
function share({ timeout }, later, left) {
    const fair = left / (later.length + 1);
    return timeout === undefined ? fair : Math.min(timeout, left - later.length * fair / 2);
}
async function runOne({ callback, name }, limit, reason, parent) {
    const log = parent.child({ shutdownCallback: name });
    const controller = new AbortController();
    const start = performance.now();
    const report = { name, time: 0 };
    try {
        const context = { signal: controller.signal, deadline: Date.now() + limit, reason, log };
        // Called from a promise, so that one which throws synchronously is no special case.
        const outcome = await within(limit, Promise.resolve(context).then(callback));
        if (outcome === TIMED_OUT)
            throw new CallbackTimeoutError(name, Math.round(limit));
    }
    catch (thrown) {
        report.error = toError(thrown);
    }
    report.time = Math.round(performance.now() - start);
    if (report.error === undefined) {
        log.info(`Shutdown callback "${name}" completed in ${report.time}ms`);
    }
    else {
        controller.abort(report.error);
        log.error({ err: report.error }, `Shutdown callback "${name}" failed after ${report.time}ms`);
    }
    return report;
}
