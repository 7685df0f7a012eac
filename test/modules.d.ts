declare module 'close-with-grace/events/*' {
  export const signalEvents: string[]
  export const errorEvents: string[]
  export const exitEvents: string[]
}
