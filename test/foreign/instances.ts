// What a test file writes down about its instances, and what the runner reads.

/** What happened on an instance besides the results of tests. */
export interface InstanceEvent {
  /**
   * `cut`: a shutdown cut a request. `slow`: closing took longer than a second. `left`: a request that is over still counts as
   * the process ends. `fault`: the plugin could not be registered.
   */
  kind: 'cut' | 'slow' | 'left' | 'fault'
  /** Where the instance was made: file and line, from the suite's folder. */
  at: string
  /** The request or the error; nothing that changes from run to run. */
  what?: string
  /** Milliseconds that closing took, if it is about that. */
  time?: number
}
