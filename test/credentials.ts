// What a server needs for TLS.

import { generate } from 'selfsigned'

export interface Credentials {
  key: string
  cert: string
}

/** With an elliptic curve: an RSA key would take a third of a second of processor time. */
export async function createCredentials (): Promise<Credentials> {
  const { private: key, cert } = await generate([{ name: 'commonName', value: 'localhost' }], { keyType: 'ec' })
  return { key, cert }
}
