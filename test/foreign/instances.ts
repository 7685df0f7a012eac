// What a test file writes down about its instances, and what the runner reads.

/** What happened on an instance besides the results of tests. */
export interface InstanceEvent {
  /**
   * A shutdown cut a request; one that had been answered; closing took longer than a second; a request that is over counts as
   * in flight when the process ends; the plugin could not be registered.
   */
  kind: 'cut' | 'cut though answered' | 'slow' | 'still counts' | 'not registered'
  /** Where the instance was made: file and line, from the suite's folder. */
  at: string
  /** The request or the error; nothing that changes from run to run. */
  what?: string
  /** Milliseconds that closing took, if it is about that. */
  time?: number
}
