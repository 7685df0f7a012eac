export declare const TIMED_OUT: unique symbol;
/** Settles as the promise does, or resolves to TIMED_OUT after `limit` milliseconds. Leaves no timer behind. */
export declare function within<T>(limit: number, promise: Promise<T>): Promise<T | typeof TIMED_OUT>;
