// Requests that hide another one: what a proxy takes for a body, a server may take for the next request (RFC 9112, section 11.2).
// None of the hidden ones may be served.

const HIDDEN = 'GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n'
const { length } = HIDDEN

function post (...lines: string[]): string {
  return ['POST /json HTTP/1.1', 'Host: x', 'Content-Type: text/plain', ...lines, '', ''].join('\r\n')
}

/** By what is wrong with them; the last ones are correct, and have a body. */
export const FORMS: Record<string, string> = {
  'content-length and transfer-encoding': post('Content-Length: 5', 'Transfer-Encoding: chunked') + `0\r\n\r\n${HIDDEN}`,
  'transfer-encoding and content-length': post('Transfer-Encoding: chunked', `Content-Length: ${5 + length}`) + `0\r\n\r\n${HIDDEN}`,
  'two lengths': post('Content-Length: 0', `Content-Length: ${length}`) + HIDDEN,
  'two equal lengths': post('Content-Length: 0', `Content-Length: 0`) + HIDDEN,
  'a list of lengths': post(`Content-Length: 0, ${length}`) + HIDDEN,
  'a length with a sign': post('Content-Length: +0') + HIDDEN,
  'a length with a space': post('Content-Length: 0 0') + HIDDEN,
  'a length in hexadecimal': post('Content-Length: 0x0') + HIDDEN,
  'a length after a space': post('Content-Length : 0') + HIDDEN,
  'another transfer-encoding': post('Transfer-Encoding: xchunked') + `0\r\n\r\n${HIDDEN}`,
  'chunked, then identity': post('Transfer-Encoding: chunked, identity') + `0\r\n\r\n${HIDDEN}`,
  'a transfer-encoding after a space': post('Transfer-Encoding : chunked') + `0\r\n\r\n${HIDDEN}`,
  'a transfer-encoding after a vertical tab': post('Transfer-Encoding: \vchunked') + `0\r\n\r\n${HIDDEN}`,
  'a transfer-encoding before a null': post('Transfer-Encoding: chunked\0') + `0\r\n\r\n${HIDDEN}`,
  'a folded transfer-encoding': post('Transfer-Encoding:', ' chunked', 'Content-Length: 0') + HIDDEN,
  'a transfer-encoding after a bare line feed': post(`X: y\nTransfer-Encoding: chunked`, 'Content-Length: 5') + `0\r\n\r\n${HIDDEN}`,
  'a transfer-encoding after a bare carriage return': post(`X: y\rTransfer-Encoding: chunked`, 'Content-Length: 5') + `0\r\n\r\n${HIDDEN}`,
  'a chunk size with a bare line feed': post('Transfer-Encoding: chunked') + `0\n\r\n${HIDDEN}`,
  'a chunk extension with a bare line feed': post('Transfer-Encoding: chunked') + `2;\nxx\r\n${(length + 4).toString(16)}\r\n0\r\n\r\n${HIDDEN}\r\n0\r\n\r\n`,
  'a chunk without its end': post('Transfer-Encoding: chunked') + `1\r\nxx0\r\n\r\n${HIDDEN}`,
  'a chunk size beyond 64 bits': post('Transfer-Encoding: chunked') + `10000000000000000\r\n0\r\n\r\n${HIDDEN}`,
  'a body that looks like a request': post(`Content-Length: ${length}`) + HIDDEN,
  'a chunk that looks like a request': post('Transfer-Encoding: chunked') + `${length.toString(16)}\r\n${HIDDEN}\r\n0\r\n\r\n`,
  'a GET with a body': `GET / HTTP/1.1\r\nHost: x\r\nContent-Length: ${length}\r\n\r\n${HIDDEN}`,
  'a body after 100-continue': post('Expect: 100-continue', `Content-Length: ${length}`) + HIDDEN
}
