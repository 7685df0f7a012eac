// What a test file records about its instances, for the runner.

/** What happened on an instance besides the results of tests. */
export interface InstanceEvent {
  /**
   * Fastify made an instance; the plugin has been registered on one; it could not be; a shutdown cut a request; it cut one that had been
   * answered; closing took longer than a second; it has not ended when the process ends; a request that is over counts as in flight then.
   */
  kind: 'made' | 'registered' | 'not registered' | 'cut' | 'cut though answered' | 'slow' | 'never closes' | 'still counts'
  /** Where the instance was created: file and line, relative to the suite's folder. */
  at: string
  /** The request or the error, without anything that changes from run to run. */
  what?: string
  /** Milliseconds that closing took, if it was slow. */
  time?: number
}
