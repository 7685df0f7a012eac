// The types of main.cjs, in the form that every TypeScript version and module setting reads.

import type { FastifyPluginAsync } from 'fastify'
import type * as types from './dist/types/index.js'

declare function gracefulPlugin (...parameters: Parameters<gracefulPlugin.GracefulPlugin>): ReturnType<gracefulPlugin.GracefulPlugin>

declare namespace gracefulPlugin {
  export type GracefulPlugin = FastifyPluginAsync<types.GracefulOptions>
  export type Phase = types.Phase
  export type ShutdownSignal = types.ShutdownSignal
  export type ProcessEvent = types.ProcessEvent
  export type ProbeCheck = types.ProbeCheck
  export type ProbeOptions = types.ProbeOptions
  export type HealthProbeOptions = types.HealthProbeOptions
  export type AdaptiveDelay = types.AdaptiveDelay
  export type GracefulOptions = types.GracefulOptions
  export type GracefulRouteOptions = types.GracefulRouteOptions
  export type ShutdownContext = types.ShutdownContext
  export type ShutdownCallback = types.ShutdownCallback
  export type CallbackOptions = types.CallbackOptions
  export type RequestInFlight = types.RequestInFlight
  export type TaskInFlight = types.TaskInFlight
  export type InFlightEntry = types.InFlightEntry
  export type DrainedEntry = types.DrainedEntry
  export type CallbackReport = types.CallbackReport
  export type ShutdownReport = types.ShutdownReport
  export type DiagnosticsChannels = types.DiagnosticsChannels
  export type GracefulShutdown = types.GracefulShutdown
  export type ProbeHandler = types.ProbeHandler

  export const gracefulPlugin: GracefulPlugin
  export { gracefulPlugin as default }
}

export = gracefulPlugin
