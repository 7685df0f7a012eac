// The public types; what is wrong here does not compile.

import t from 'tap'
import type { FastifyInstance } from 'fastify'
import { expectTypeOf } from 'expect-type'
import type {
  CallbackReport, GracefulOptions, GracefulShutdown, HealthProbeOptions, InFlightEntry, Phase, ProbeOptions, ProcessEvent, ShutdownCallback,
  ShutdownContext, ShutdownReport
} from '../index.ts'
import gracefulPlugin, { gracefulPlugin as named } from '../index.ts'
import { createApp } from './helpers.ts'

t.test('decorates the instance', async t => {
  const { app } = await createApp(t)
  expectTypeOf(app.isShuttingDown).toEqualTypeOf<boolean>()
  expectTypeOf(app.inFlightRequests).toEqualTypeOf<number>()
  expectTypeOf(app.gracefulShutdown).toEqualTypeOf<GracefulShutdown>()
  expectTypeOf(app.gracefulShutdown.phase).toEqualTypeOf<Phase>()
  expectTypeOf(app.gracefulShutdown.signal).toEqualTypeOf<AbortSignal>()
  expectTypeOf(app.gracefulShutdown.inFlight).returns.toEqualTypeOf<InFlightEntry[]>()
  expectTypeOf(app.gracefulShutdown.shutdown).returns.resolves.toEqualTypeOf<ShutdownReport>()
  expectTypeOf(app.gracefulShutdown.wait).returns.resolves.toEqualTypeOf<ShutdownReport>()
  expectTypeOf(app.gracefulShutdown.track(Promise.resolve(1))).toEqualTypeOf<Promise<number>>()
  expectTypeOf<ShutdownReport['callbacks']>().items.toEqualTypeOf<CallbackReport>()
  expectTypeOf<ShutdownReport['exitCode']>().toEqualTypeOf<0 | 1>()
  expectTypeOf<Parameters<FastifyInstance['registerShutdownCallback']>[0]>().toEqualTypeOf<ShutdownCallback>()
  expectTypeOf<ShutdownContext>().toHaveProperty('deadline').toEqualTypeOf<number>()
  t.equal(named, gracefulPlugin)
})

t.test('takes the options that there are', async t => {
  expectTypeOf<GracefulOptions['readTimeout']>().toEqualTypeOf<number | false | undefined>()
  expectTypeOf<GracefulOptions['signals']>().toEqualTypeOf<boolean | readonly ProcessEvent[] | undefined>()
  expectTypeOf<GracefulOptions['ready']>().toEqualTypeOf<string | ProbeOptions | false | undefined>()
  expectTypeOf<GracefulOptions['health']>().toEqualTypeOf<string | HealthProbeOptions | false | undefined>()
  expectTypeOf<ProbeOptions>().not.toHaveProperty('duringShutdown')
  const { app } = await createApp(t, { health: { duringShutdown: 200, config: { own: 1 }, schema: { hide: true } } })
  app.get('/stream', { config: { gracefulShutdown: { writeTimeout: false } } }, async () => 'x')
  app.get('/metrics', { config: { gracefulShutdown: false } }, async () => 'x')
  // @ts-expect-error a string is no time
  t.throws(() => app.get('/wrong', { config: { gracefulShutdown: { writeTimeout: '1' } } }, async () => 'x'))
  // @ts-expect-error a string is no callback
  t.throws(() => { app.registerShutdownCallback('x') })
  // @ts-expect-error a string is no time
  t.throws(() => { app.registerShutdownCallback(() => {}, { timeout: '1' }) })
  // @ts-expect-error nobody but the shutdown sets the phase
  t.throws(() => { app.gracefulShutdown.phase = 'closed' })
})
