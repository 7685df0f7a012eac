// What the service does: it keeps notes.

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
    // Well below the plugin's writeTimeout of 10 s, after which a response without any progress is cut.
    ms: { type: 'integer', minimum: 0, maximum: 5_000, default: 100 }
  }
}

const newNoteSchema = {
  type: 'object',
  required: ['text'],
  properties: {
    author: { type: 'string', minLength: 1, maxLength: 100, default: 'anonymous' },
    // The body limit is for all routes. This one's text is parsed for markup, which holds up everybody else.
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
    // Written at the end of the work, and before the answer: who reads a 201 finds the note, whatever happens next.
    const id = notes.add(author, text)
    return await reply.code(201).send({ id, author, text })
  })
}
