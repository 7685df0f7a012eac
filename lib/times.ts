// Every constant of time that is not an option, in milliseconds.

/** Node's timers overflow beyond this, and fire at once. */
export const LONGEST_TIMER = 2 ** 31 - 1

/** The checks of a probe, if its option `checkTimeout` says nothing else. */
export const CHECK_TIMEOUT = 1_000

/** A timeout acts late by at most this part of its length, within these bounds. */
export const LATENESS = { part: 1 / 10, least: 10, most: 1_000 }

/** How often the log says what a shutdown waits for. */
export const PROGRESS_INTERVAL = 1_000

/** The steps of a shutdown end this long before shutdownTimeout, so that the report is written before the forced exit. */
export const EXIT_MARGIN = { part: 1 / 20, most: 250 }

/**
 * A client that has just been answered over keep-alive sends its next request at once, which is to meet a 503 and not a
 * reset. So no request may have arrived for `milliseconds` before connections are closed; `most` bounds the wait.
 */
export const QUIET = { milliseconds: 100, most: 200 }

/** How long responses have to be read to their end, and then upgraded connections to say goodbye: a part of the time for closing. */
export const CLOSE_GRACE = { part: 1 / 4, most: 1_000 }

/** New connections are accepted for at most this long before the listener closes. */
export const ACCEPT_BACKLOG = 250

/** A client that has been refused connects again within this time, if it does so at once. */
export const RECONNECT_WINDOW = 50

/** A connection accepted during shutdown has this long to send a request. */
export const FIRST_REQUEST = 500

/** An HTTP/2 session that has been sent GOAWAY has this long to close by itself. */
export const AFTER_GOAWAY = 100

/** While draining, a connection that becomes idle is closed after this time. */
export const DRAINING_KEEP_ALIVE = 100

/** A body that is not used is read for at most this long, so that its sender reads the answer. */
export const LINGERING_CLOSE = 5_000
