// What is known to differ once the plugin is on every instance, and why. Anything else is a defect.

export interface Difference {
  suite: string
  file: string
  /** As the runner prints them. */
  what: readonly string[]
  reason: string
}

export const DIFFERENCES: readonly Difference[] = []
