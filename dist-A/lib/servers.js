// The listeners of a Fastify instance: the server that it shows, and the second one that it binds for
// `localhost` (127.0.0.1 and ::1) and does not show.
import { subscribe } from 'node:diagnostics_channel';
/** Who takes charge of an instance's servers, by the request listener that they all share. */
const owners = new WeakMap();
let watching = false;
/** Whether the instance's servers have an owner. */
export function isOwned(fastify) {
    return owners.has(fastify.routing);
}
/** Hands each server of the instance to `adopt`, before it listens. */
export function adoptServers(fastify, adopt) {
    owners.set(fastify.routing, server => {
        if (server !== fastify.server)
            adopt(server);
    });
    adopt(fastify.server);
    if (watching)
        return;
    watching = true;
    // One subscription for the life of the process: it holds no instance, so that there is nothing to let go of.
    subscribe('tracing:net.server.listen:asyncStart', message => {
        const { server } = message;
        for (const listener of server.listeners('request'))
            owners.get(listener)?.(server);
    });
}
