// The routes of the service: it stores notes.

import type { FastifyPluginAsync } from 'fastify'
import type { NoteStore } from './database.ts'
import { setTimeout as sleep } from 'node:timers/promises'
import createError from '@fastify/error'
import { sanitizeInput } from './sanitize.ts'

interface Options {
  notes: NoteStore
}

interface Work {
  /** How long the request takes, in milliseconds. */
  ms: number
}

interface NewNote {
  author: string
  text: string
}

const EmptyNoteError = createError('EMPTY_NOTE', 'Nothing is left of the text without its markup', 400)

const workSchema = {
  type: 'object',
  properties: {
    // Well below the plugin's writeTimeout of 10 s, after which a response that makes no progress is cut.
    ms: { type: 'integer', minimum: 0, maximum: 5_000, default: 100 }
  }
}

const newNoteSchema = {
  type: 'object',
  required: ['text'],
  properties: {
    author: { type: 'string', minLength: 1, maxLength: 100, default: 'anonymous' },
    // Much less than the body limit of the service: the text is parsed for markup, and parsing blocks the event loop.
    text: { type: 'string', minLength: 1, maxLength: 100_000 }
  }
}

export const api: FastifyPluginAsync<Options> = async (app, { notes }) => {
  app.addHook('preHandler', sanitizeInput)

  app.get<{ Querystring: Work }>('/data', { schema: { querystring: workSchema } }, async ({ query: { ms } }) => {
    await sleep(ms)
    return { ms, notes: notes.latest(10) }
  })

  app.post<{ Querystring: Work, Body: NewNote }>('/data', {
    schema: { querystring: workSchema, body: newNoteSchema }
  }, async (request, reply) => {
    const { author, text } = request.body
    if (text.trim() === '') throw new EmptyNoteError()
    await sleep(request.query.ms)
    // Written before the response is sent, so a client that gets a 201 can rely on the note being stored.
    const id = notes.add(author, text)
    return await reply.code(201).send({ id, author, text })
  })
}
