// The phases of a shutdown, which may follow which, and when each began.
const ORDER = ['running', 'delaying', 'draining', 'closing', 'closed'];
/** Where one instance stands on its way out. Only the shutdown moves it. */
export class PhaseClock {
    /** A plain field: the request path reads it on every request. */
    current = 'running';
    #abort = new AbortController();
    /** Aborts as the instance leaves `running`. */
    get signal() {
        return this.#abort.signal;
    }
    /** Goes on to a later phase; phases may be left out, but nothing leads back. */
    advance(next) {
        if (ORDER.indexOf(next) <= ORDER.indexOf(this.current)) {
            throw new Error(`A shutdown cannot go from ${this.current} to ${next}`);
        }
        const first = this.current === 'running';
        this.current = next;
        if (first)
            this.#abort.abort();
    }
}
