// Chromium, for what only a browser can tell.

import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { chromium, type Browser } from 'playwright-core'

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'chrome']

/** @throws if there is none in the PATH */
export async function launchBrowser (): Promise<Browser> {
  const found = (process.env['PATH'] ?? '').split(delimiter).flatMap(folder => NAMES.map(name => join(folder, name))).find(existsSync)
  if (found === undefined) throw new Error('There is no Chromium in the PATH: apt-get install chromium fonts-dejavu-core')
  return await chromium.launch({ executablePath: found })
}
