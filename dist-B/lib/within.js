// A promise, or the end of its time, whichever comes first.
export const TIMED_OUT = Symbol('graceful.timed-out');
/** Settles as the promise does, or resolves to TIMED_OUT after `limit` milliseconds. Leaves no timer behind. */
export async function within(limit, promise) {
    let timer;
    const timeUp = new Promise(resolve => {
        timer = setTimeout(resolve, limit, TIMED_OUT);
    });
    try {
        return await Promise.race([promise, timeUp]);
    }
    finally {
        clearTimeout(timer);
    }
}
