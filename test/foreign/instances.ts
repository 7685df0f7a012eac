// What a test file records about its instances, for the runner.

/** What happened on an instance besides the results of tests. */
export interface InstanceEvent {
  /**
   * A shutdown cut a request; it cut one that had been answered; closing took longer than a second; a request that is over counts as
   * in flight when the process ends; the plugin could not be registered.
   */
  kind: 'cut' | 'cut though answered' | 'slow' | 'still counts' | 'not registered'
  /** Where the instance was created: file and line, relative to the suite's folder. */
  at: string
  /** The request or the error, without anything that changes from run to run. */
  what?: string
  /** Milliseconds that closing took, if it was slow. */
  time?: number
}
