// The known differences with the plugin on every instance, and their reasons. Any other difference is a defect of the plugin.

import { SELF_TEST } from './suites.ts'

export interface Difference {
  suite: string
  file: string
  /** As the runner prints them. */
  what: readonly string[]
  reason: string
}

/** Closing waits for such a request until the deadline. */
const cut = (place: string, request: string) => [`cut: ${place} ${request}`, `slow: ${place}`]

export const DIFFERENCES: readonly Difference[] = [
  {
    suite: SELF_TEST.name,
    file: 'detected.cjs',
    what: [
      'instances without the plugin',
      'fails: a test fails',
      ...cut('detected.cjs:27', 'GET /'),
      'cut though answered: detected.cjs:36 GET /',
      'slow: detected.cjs:36',
      'still counts: detected.cjs:43 GET /',
      'slow: detected.cjs:49',
      'never closes: elsewhere'
    ],
    reason: 'What the runner can find. Unlike others, they must occur.'
  },
  {
    suite: 'fastify',
    file: 'test/hooks.test.js',
    what: ['fails: onRequest hook should support encapsulation / 2', 'fails: onResponse hook should support encapsulation / 2'],
    reason: 'The test counts the hooks of its instance, and the plugin has one of each.'
  },
  {
    suite: 'fastify',
    file: 'test/pretty-print.test.js',
    what: ['fails: pretty print - empty plugins', 'fails: pretty print - includeMeta, includeHooks'],
    reason: 'The test compares a list of all hooks, and the plugin adds some.'
  },
  {
    suite: 'fastify',
    file: 'test/close.test.js',
    what: [
      'fails: Current opened connection should NOT continue to work after closing and return "connection: close" header - return503OnClosing: false',
      'fails: Current opened connection should not accept new incoming connections',
      'fails: rejected incoming connections should be logged'
    ],
    reason: 'The test sends a second request on a connection whose last response says "Connection: close" with the plugin.'
  },
  {
    suite: 'fastify',
    file: 'test/close.test.js',
    what: ['fails: Should return error while closing (promise) - injection'],
    reason: 'During the drain, inject() resolves to the 503 of the gate; Fastify alone rejects it as soon as close() has been called.'
  },
  {
    suite: 'fastify',
    file: 'test/close-pipelining.test.js',
    what: ['fails: Should return 503 while closing - pipelining'],
    reason: 'The last response of a pipeline says "Connection: close", so that the client sends nothing more on this connection.'
  },
  {
    suite: 'fastify',
    file: 'test/close-pipelining.test.js',
    what: ['fails: Should close the socket abruptly - pipelining - return503OnClosing: false'],
    reason: 'The connection is not closed under a request that has just been sent: it gets a 503.'
  },
  {
    suite: 'fastify',
    file: 'test/http2/closing.test.js',
    what: [
      'fails: http/2 request while fastify closing Node <24',
      'fails: http/2 request while fastify closing - return503OnClosing: false'
    ],
    reason: 'A stream that crosses the GOAWAY ends with REFUSED_STREAM, which a client may retry; the test ignores errors of the stream.'
  },
  {
    suite: 'fastify',
    file: 'test/reply-error.test.js',
    what: [
      ...cut('test/reply-error.test.js:454', 'GET /'),
      ...cut('test/reply-error.test.js:479', 'GET /'),
      ...cut('test/reply-error.test.js:623', 'GET /'),
      'fails: (the file)'
    ],
    reason: 'The handler never answers an injected request, which the drain waits for; the 503 then calls what should not be called.'
  },
  {
    suite: 'fastify',
    file: 'test/custom-http-server.test.js',
    what: [
      'fails: Should not make an extra closeIdleConnections call for native servers',
      'fails: Should preserve the extra closeIdleConnections call for custom servers'
    ],
    reason: 'The test counts the calls. Node makes one in close(), which would destroy connections that are about to send a request.'
  },
  {
    suite: 'fastify',
    file: 'test/skip-reply-send.test.js',
    what: [...cut('test/skip-reply-send.test.js:222', 'GET /'), 'fails: (the file)'],
    reason: 'The test hijacks the reply of an injected request and never answers it; the drain waits for it.'
  },
  {
    suite: 'fastify',
    file: 'test/stream.2.test.js',
    what: cut('test/stream.2.test.js:80', 'GET /'),
    reason: 'The payload is a stub of a stream that never ends, so that the drain waits for the response.'
  },
  {
    suite: 'fastify',
    file: 'test/route-hooks.test.js',
    what: cut('test/route-hooks.test.js:586', 'GET /timeout'),
    reason: 'The handler never answers. It may be at work although its client has disconnected, so it counts until the drain ends.'
  },
  {
    suite: 'fastify',
    file: 'test/hooks.test.js',
    what: [...cut('test/hooks.test.js:3222', 'GET /timeout'), ...cut('test/hooks.test.js:3249', 'GET /timeout')],
    reason: 'The handler returns its reply and never answers. It may be at work although its client has disconnected, so it counts.'
  },
  {
    suite: '@fastify/reply-from',
    file: 'test/http2-timeout.test.js',
    what: ['cut: test/http2-timeout.test.js:10 GET /', ...cut('test/http2-timeout.test.js:108', 'GET /')],
    reason: 'The handler of the upstream server never answers. It may be at work although its client has disconnected, so it counts.'
  },
  {
    suite: '@fastify/reply-from',
    file: 'test/http2-timeout-disabled.test.js',
    what: ['fails: http2 request timeout disabled', 'cut though answered: test/http2-timeout-disabled.test.js:9 GET /'],
    reason: 'The upstream server leaves a request open for 11 seconds, and the writeTimeout of the plugin answers it after 10.'
  },
  {
    suite: '@fastify/reply-from',
    file: 'test/http2-timeout-disabled.test.js',
    what: [...cut('test/http2-timeout-disabled.test.js:47', 'GET /'), ...cut('test/http2-timeout-disabled.test.js:55', 'GET /')],
    reason: 'The handler of the upstream server never answers. It may be at work although its client has disconnected, so it counts.'
  },
  {
    suite: '@fastify/static',
    file: 'test/static.test.js',
    what: cut('test/static.test.js:3384', 'GET /static/index.html'),
    reason: 'Fastify answers nothing after ERR_STREAM_PREMATURE_CLOSE in a hook; the request is injected, so no socket tells of its end.'
  },
  {
    suite: '@fastify/cors',
    file: 'test/hooks.test.js',
    what: [
      'fails: Should set hook onRequest if hook option is not set',
      'fails: Should set hook onRequest if hook option is set to onRequest',
      'fails: Should set hook preParsing if hook option is set to preParsing',
      'fails: Should set hook preParsing if hook option is set to preParsing (2)',
      'fails: Should set hook preValidation if hook option is set to preValidation',
      'fails: Should set hook preHandler if hook option is set to preHandler',
      'fails: Should set hook preSerialization if hook option is set to preSerialization'
    ],
    reason: 'The tests count the hooks of their instances, and the plugin has one of its own.'
  },
  {
    suite: '@fastify/bearer-auth',
    file: 'test/hooks.test.js',
    what: [
      'fails: onRequest hook used by default',
      'fails: preParsing hook used when specified',
      'fails: onRequest hook used when specified'
    ],
    reason: 'The tests count the hooks of a route, and the plugin has one of its own.'
  },
  {
    suite: '@fastify/under-pressure',
    file: 'test/index.test.js',
    what: ['slow: test/index.test.js:134'],
    reason: 'The next test blocks the event loop for 1.5 seconds, before the few turns of the loop that a drain needs are over.'
  },
  {
    suite: 'fastify',
    file: 'test/hooks.test.js',
    what: ['fails: onRoute hook should preserve handler function in options of shorthand route system configuration'],
    reason: 'Later onRoute hooks see a function around the handler, with its name and properties: the plugin observes when it settles.'
  },
  {
    suite: '@fastify/express',
    file: 'test/form-data.test.js',
    what: cut('test/form-data.test.js:80', 'POST /hello'),
    reason: 'Express has read the body, so that the body parser waits forever. Nothing tells that from a hook at work, so the request counts.'
  },
  {
    suite: '@fastify/static',
    file: 'test/static.test.js',
    what: [
      'warns: MaxListenersExceededWarning: Possible EventEmitter memory leak detected. 11 close listeners added to [Response]. MaxListeners is 10. Use emitter.setMaxListeners() to increase limit' // oxlint-disable-line max-len
    ],
    reason: 'An injected response has one listener of the plugin for its end, and ten of Reply.then, one for each file that was tried.'
  }
]
