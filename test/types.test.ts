// The public types; a mistake here is a compile error.

import t from 'tap'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { FastifyInstance } from 'fastify'
import type { ZodTypeProvider } from 'fastify-type-provider-zod'
import { Type } from '@fastify/type-provider-typebox'
import { expectTypeOf } from 'expect-type'
import Fastify from 'fastify'
import { validatorCompiler } from 'fastify-type-provider-zod'
import { z } from 'zod'
import type {
  CallbackReport, DiagnosticsChannels, DrainedEntry, GracefulOptions, GracefulShutdown, HealthProbeOptions, InFlightEntry, Phase,
  ProbeOptions, ProcessEvent, ShutdownCallback, ShutdownContext, ShutdownReport
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
  expectTypeOf<ShutdownReport['slowest']>().items.toEqualTypeOf<DrainedEntry>()
  expectTypeOf<DrainedEntry['after']>().toEqualTypeOf<number>()
  expectTypeOf<DiagnosticsChannels['fastify-graceful:report']['report']>().toEqualTypeOf<ShutdownReport>()
  expectTypeOf<ShutdownReport['exitCode']>().toEqualTypeOf<0 | 1>()
  expectTypeOf<Parameters<FastifyInstance['registerShutdownCallback']>[0]>().toEqualTypeOf<ShutdownCallback>()
  expectTypeOf<ShutdownContext>().toHaveProperty('deadline').toEqualTypeOf<number>()
  t.equal(named, gracefulPlugin)
})

t.test('accepts all options', async t => {
  expectTypeOf<GracefulOptions['readTimeout']>().toEqualTypeOf<number | false | undefined>()
  expectTypeOf<GracefulOptions['signals']>().toEqualTypeOf<boolean | readonly ProcessEvent[] | undefined>()
  expectTypeOf<GracefulOptions['ready']>().toEqualTypeOf<string | ProbeOptions | false | undefined>()
  expectTypeOf<GracefulOptions['health']>().toEqualTypeOf<string | HealthProbeOptions | false | undefined>()
  expectTypeOf<ProbeOptions>().not.toHaveProperty('duringShutdown')
  const { app } = await createApp(t, { health: { duringShutdown: 200, config: { own: 1 }, schema: { hide: true } } })
  app.get('/stream', { config: { gracefulShutdown: { writeTimeout: false } } }, async () => 'x')
  app.get('/metrics', { config: { gracefulShutdown: false } }, async () => 'x')
  // @ts-expect-error a string is not a time
  t.throws(() => app.get('/wrong', { config: { gracefulShutdown: { writeTimeout: '1' } } }, async () => 'x'))
  // @ts-expect-error a string is not a callback
  t.throws(() => { app.registerShutdownCallback('x') })
  // @ts-expect-error a string is not a time
  t.throws(() => { app.registerShutdownCallback(() => {}, { timeout: '1' }) })
  // @ts-expect-error only the shutdown sets the phase
  t.throws(() => { app.gracefulShutdown.phase = 'closed' })
})

t.test("accepts every kind of server: the probes' handlers on HTTPS and HTTP/2 instances", async t => {
  const { app } = await createApp(t)
  const { healthHandler, readyHandler } = app.gracefulShutdown
  const admins = [Fastify({ http2: true }), Fastify({ https: {} }), Fastify({ http2: true, https: {} }), Fastify()] as const
  const [http2, https, secureHttp2, http] = admins
  http2.get('/live', healthHandler).route({ method: 'GET', url: '/ready', handler: readyHandler })
  https.get('/live', healthHandler).route({ method: 'GET', url: '/ready', handler: readyHandler })
  secureHttp2.get('/live', healthHandler).route({ method: 'GET', url: '/ready', handler: readyHandler })
  http.get('/live', healthHandler).route({ method: 'GET', url: '/ready', handler: readyHandler })
  expectTypeOf(secureHttp2.register(gracefulPlugin, { health: false, ready: false }).gracefulShutdown).toEqualTypeOf<GracefulShutdown>()
  for (const admin of admins) {
    t.equal((await admin.inject('/live')).body, '{"status":"healthy"}')
    await admin.close()
  }
})

t.test('accepts every type provider', async t => {
  const typebox = Fastify().withTypeProvider<TypeBoxTypeProvider>()
  await typebox.register(gracefulPlugin, { drainTimeout: 1_000, prefix: '/x' })
  typebox.get('/typebox', { schema: { querystring: Type.Object({ n: Type.Number() }) } }, async ({ query }) => {
    expectTypeOf(query).toEqualTypeOf<{ n: number }>()
    return 'x'
  })
  typebox.get('/live', typebox.gracefulShutdown.healthHandler)
  typebox.get('/live2', { schema: { response: { 200: Type.Object({ status: Type.String() }) } } }, typebox.gracefulShutdown.healthHandler)
  const zod = Fastify().withTypeProvider<ZodTypeProvider>()
  await zod.register(gracefulPlugin, { drainTimeout: 1_000 })
  zod.setValidatorCompiler(validatorCompiler)
  zod.get('/zod', { schema: { querystring: z.object({ n: z.coerce.number() }) } }, async ({ query }) => {
    expectTypeOf(query).toEqualTypeOf<{ n: number }>()
    return 'x'
  })
  zod.get('/live', zod.gracefulShutdown.healthHandler)
  // @ts-expect-error a string is not a time
  await t.rejects(async () => { await Fastify().withTypeProvider<ZodTypeProvider>().register(gracefulPlugin, { drainTimeout: '1' }) })
  for (const app of [typebox, zod]) {
    t.equal((await app.inject('/live')).statusCode, 200)
    await app.close()
  }
})
