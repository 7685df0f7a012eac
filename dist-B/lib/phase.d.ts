import type { Phase } from '../types/index.ts';
/** Where one instance stands on its way out. Only the shutdown moves it. */
export declare class PhaseClock {
    #private;
    /** A plain field: the request path reads it on every request. */
    current: Phase;
    /** Aborts as the instance leaves `running`. */
    get signal(): AbortSignal;
    /** Goes on to a later phase; phases may be left out, but nothing leads back. */
    advance(next: Phase): void;
}
