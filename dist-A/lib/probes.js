// /health and /ready: what the load balancer and the orchestrator are told.
import { OptionInvalidError, ProbePathError } from './errors.js';
import { show } from './options.js';
import { TIMED_OUT, within } from './within.js';
/** Makes the handlers and the switch behind readiness. */
export function createProbes(health, ready, phase, inFlight) {
    let isReady = true;
    const isShuttingDown = () => phase.current !== 'running';
    const healthHandler = async (_request, reply) => {
        if (isShuttingDown())
            return await answer(reply, 503, { status: 'shutting_down' });
        const failed = await failedChecks(health);
        return failed.length === 0
            ? await answer(reply, 200, { status: 'healthy' })
            : await answer(reply, 503, { status: 'unhealthy', checks: failed });
    };
    const readyHandler = async (_request, reply) => {
        if (isShuttingDown())
            return await answer(reply, 503, { ready: false, reason: 'shutting_down' });
        if (!isReady)
            return await answer(reply, 503, { ready: false, reason: 'not_ready' });
        const failed = await failedChecks(ready);
        return failed.length === 0
            ? await answer(reply, 200, { ready: true, in_flight_requests: inFlight.count })
            : await answer(reply, 503, { ready: false, reason: 'check_failed', checks: failed });
    };
    const setReady = (value) => {
        if (typeof value !== 'boolean')
            throw new OptionInvalidError('argument of setReady()', show(value), 'true or false');
        isReady = value;
    };
    return { healthHandler, readyHandler, setReady };
}
/** Routes a probe, for GET and HEAD. */
export function routeProbe(fastify, name, probe, handler) {
    if (probe === false)
        return;
    const { path, logLevel } = probe;
    const route = { method: ['GET', 'HEAD'], url: path, handler, exposeHeadRoute: false };
    if (fastify.hasRoute({ method: 'GET', url: path })) {
        throw new ProbePathError(name, path, 'a route');
    }
    fastify.route(logLevel === undefined ? route : { ...route, logLevel: logLevel });
}
async function answer(reply, status, body) {
    // Serialized here, so that no serializer of the user's makes another body of it.
    return reply.code(status).header('cache-control', 'no-store').type('application/json; charset=utf-8')
        .send(JSON.stringify(body));
}
/** Runs a probe's checks side by side; the names of those that failed. */
async function failedChecks(probe) {
    if (probe === false)
        return [];
    const outcomes = await Promise.all(Object.entries(probe.checks).map(async ([name, check]) => {
        try {
            const outcome = await within(probe.checkTimeout, Promise.resolve().then(check));
            return outcome === TIMED_OUT || outcome === false ? [name] : [];
        }
        catch {
            return [name];
        }
    }));
    return outcomes.flat();
}
