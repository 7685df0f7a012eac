// Every time constant that is not an option, in milliseconds.

/** Node's timers overflow beyond this and fire at once. */
export const LONGEST_TIMER = 2 ** 31 - 1

/** Node keeps an idle connection this much longer than the server's `keepAliveTimeout`. */
export const KEEP_ALIVE_BUFFER = 1_000

/** By how much the timers that the plugin sets on sockets are shorter than they need to be: this tells them from those of a user. */
export const OWN_TIMER = 2 ** -10

/**
 * If the stream of a response has been read within this part of writeTimeout, the response makes progress. Not all of it: what is sent as
 * it is read is also progress of the socket, at the same time.
 */
export const READ_PART = 0.9

/** The default of a probe's `checkTimeout`. */
export const CHECK_TIMEOUT = 1_000

/** A check that does not end is run again after this time at the latest. */
export const CHECK_RETRY = 60_000

/** How late a timeout may be noticed: as a part of it, the interval at which it is checked. */
const LATENESS = { part: 1 / 10, least: 10, most: 1_000 }

export function checkIntervalOf (timeout: number): number {
  return Math.min(LATENESS.most, Math.max(LATENESS.least, timeout * LATENESS.part))
}

/** A request body may take this much longer for each KiB of it that has arrived, as with MinRate in Apache's mod_reqtimeout. */
export const READ_PER_KIB = 1_000

/** How often the log shows what a shutdown waits for. */
export const PROGRESS_INTERVAL = 1_000

/** The steps of a shutdown end this long before shutdownTimeout, so that the report is written before the forced exit. */
export const EXIT_MARGIN = { part: 1 / 20, most: 250 }

/** The part of shutdownTimeout, EXIT_MARGIN included, that shutdownDelay and drainTimeout must leave for closing and callbacks. */
export const CLEANUP = { part: 1 / 10, most: 500 }

export function partOf (time: number, { part, most }: { part: number, most: number }): number {
  return Math.min(most, time * part)
}

/**
 * A client that has just been answered may send its next request at once, and should get a 503, not a reset: closing a listener
 * also resets connections that are about to be accepted. So for `milliseconds` no request may have arrived and no response may have
 * been sent before they are closed; `most` limits the wait.
 */
export const QUIET = { milliseconds: 100, most: 200 }

/** Tools that run a program (nodemon, tsx, npm) may deliver one Ctrl-C twice, so the first signal again within this time is a copy. */
export const SIGNAL_COPY = 200

/** An exit waits for at most this long until the last lines of the log are written. Other work may keep the thread pool busy. */
export const LOG_FLUSH = 500

/** How often it is checked whether the log is written. */
export const LOG_CHECK = 1

/** Between two checks, at most this part of a limit passes: a time in which the process is stopped hardly counts. */
export const STEP_PART = 1 / 10

/** How long responses may take to be read, and then upgraded connections to close: a part of the time for closing. */
export const SETTLE_TIMEOUT = { part: 1 / 4, most: 1_000 }

/** How long a listen() in progress may take before Fastify closes: a part of the time that is left. */
export const LISTEN_TIMEOUT = { part: 1 / 4, most: 1_000 }

/** How long before drainTimeout a spread ends: a part of it. */
export const SPREAD_MARGIN = { part: 1 / 4, most: 1_000 }

/** How many iterations of the event loop the last answers may take to be written: Node writes those of a pipeline one after another. */
export const FLUSH_TURNS = 50

/** If a process exits before the end of a shutdown: for how long it answers requests, and then for how long it sends the answers. */
export const EXIT_FLUSH = 100

/** How often a listener is checked for whether it has stopped: in the first turns of the event loop, and then after each pause. */
export const STOP_CHECK = { turns: 10, milliseconds: 5 }

/** After this part of the time for closing, preClose hooks and a replaced server.close() are abandoned, so that onClose hooks run. */
export const CLOSE_PART = 3 / 4

/** How long after the last uncaught error the process ends if it is exiting. */
export const EXIT_CHECK = 100

/** New connections are accepted for at most this long before the listener closes. */
export const ACCEPT_BACKLOG = 250

/** A rejected client that reconnects immediately does so within this time. */
export const RECONNECT_WINDOW = 50

/**
 * How long a new connection has to send its first request: from when it was accepted during the shutdown, or from when the listener was
 * closed, if it was accepted before.
 */
export const FIRST_REQUEST = 500

/** An HTTP/2 session that has been sent GOAWAY has this long to close by itself. */
export const AFTER_GOAWAY = 100

/**
 * A client that is reading its last HTTP/2 responses sends something at least this often, to open its flow-control window. One that sends
 * nothing for this long has read them, or has disconnected.
 */
export const HTTP2_READ_PAUSE = 1_000

/** How often it is checked whether the end of an HTTP/2 response has been sent, while it is queued. */
export const HTTP2_END_CHECK = 20

/** While draining, a connection that becomes idle is closed after this time. */
export const DRAINING_KEEP_ALIVE = 100

/** An unused body is read for at most this long, so that the client reads the answer. */
export const LINGERING_CLOSE = 5_000

/** When a rejected client may try again: soon, because another instance gets the request. The header has whole seconds. */
export const RETRY_AFTER = 1_000

/** A timeout below this is probably meant in seconds. */
export const PERHAPS_SECONDS = 1_000

/** How often long-lived connections are closed while `spread` lasts. */
export const SPREAD_INTERVAL = 50
