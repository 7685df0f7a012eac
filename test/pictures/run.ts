// `npm run test:pictures`: checks each picture in Chromium, light and dark, wide and narrow. `-- --help` shows the options.
//
// Exits with 1 if a text is too small, faint, cut off or covered, or if a picture is not the approved one.
// What is approved is the file, in which each digit counts, and a small screenshot without text, which fonts would change. Those of
// Chromium 119, 131 and 156 differ by 1 of 255 at most.

import type { Page } from 'playwright-core'
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { deflateSync, inflateSync } from 'node:zlib'
import { launchBrowser } from '../browser.ts'
import { contrast, MIN_CONTRAST, rgb } from './contrast.ts'
import { pictures } from './files.ts'
import { otherTimelines } from './timelines.ts'

const HELP = `npm run test:pictures -- [--approve] [--screenshots FOLDER]

  --approve             stores hashes and small screenshots of the pictures in test/pictures/approved.json, if there is no other fault
  --screenshots FOLDER  writes a screenshot of each picture, to look at

Needs Chromium in the PATH (apt-get install chromium fonts-dejavu-core).
`

const SCHEMES = ['light', 'dark'] as const
type Scheme = typeof SCHEMES[number]
const WIDTHS = [1200, 380]
/** Pixels of the screen. */
const SMALLEST_TEXT = 9
/** The widest of the common fonts: what fits in it fits in the others. */
const FONT = 'DejaVu Sans'
/** Of 255 shades, between a part of a small screenshot and of the approved one. Enough to find anything but a single dot or tick. */
const TOLERANCE = 4
const APPROVED = new URL('approved.json', import.meta.url)

interface Box { x: number, y: number, width: number, height: number }
interface Seen {
  frame: Box
  texts: Array<{ box: Box, content: string, size: number, colour: string }>
  marks: Box[]
}

const { values: asked } = parseArgs({
  options: { approve: { type: 'boolean', default: false }, screenshots: { type: 'string' }, help: { type: 'boolean', default: false } }
})
if (asked.help) {
  console.log(HELP)
  process.exit(0)
}

const all = [...pictures(), ...otherTimelines()]
const faults: string[] = []
/** What each picture looks like, in each scheme and width. */
const shades: Record<string, number[]> = {}
const browser = await launchBrowser()
try {
  for (const scheme of SCHEMES) {
    for (const width of WIDTHS) {
      const page = await open(scheme, width)
      for (const { path, svg } of all) await look(page, path, svg, { scheme, width })
      await page.close()
    }
  }
} finally {
  await browser.close()
}
compare()
for (const fault of faults) console.error(fault)
console.log(`${all.length} pictures, ${faults.length} faults`)
process.exitCode = faults.length === 0 ? 0 : 1

async function open (scheme: Scheme, width: number): Promise<Page> {
  return await browser.newPage({ colorScheme: scheme, viewport: { width, height: 800 } })
}

/** Checks a picture and records its faults. */
async function look (page: Page, path: string, svg: string, { scheme, width }: { scheme: Scheme, width: number }): Promise<void> {
  const wide = svg.replace('<svg ', '<svg style="width: 100vw; display: block; height: auto" ').replace(/font-family="[^"]*"/, `font-family="${FONT}"`)
  // Grey, because the colour around a picture depends on the version of Chromium.
  await page.setContent(`<!doctype html><style>body { margin: 0; background: grey }</style>${wide}`)
  await page.addScriptTag({ path: fileURLToPath(new URL('in-page.js', import.meta.url)) })
  const name = `${path}, ${scheme}, ${width} px`
  const fault = (message: string) => { faults.push(`${name}: ${message}`) }
  const { frame, texts, marks } = await page.evaluate('inspect()') as Seen
  if (asked.screenshots !== undefined) {
    mkdirSync(asked.screenshots, { recursive: true })
    await page.screenshot({ fullPage: true, path: join(asked.screenshots, `${path.replaceAll('/', '-').replace('.svg', '')}-${scheme}-${width}.png`) })
  }
  if (!await page.evaluate(`document.fonts.check('16px "${FONT}"')`)) fault(`${FONT} is not installed`)

  for (const mark of marks) if (!isInside(mark, frame, 0)) fault(`a mark at ${mark.x}, ${mark.y} is cut off`)
  for (const [index, { content, box, size }] of texts.entries()) {
    if (size < SMALLEST_TEXT) fault(`"${content}" is ${size.toFixed(1)} px high`)
    if (!isInside(box, frame, 4)) fault(`"${content}" is cut off, or touches the edge`)
    for (const other of texts.slice(index + 1)) if (overlap(box, other.box)) fault(`"${content}" overlaps "${other.content}"`)
  }

  await page.addStyleTag({ content: 'text { visibility: hidden }' })
  const background = `data:image/png;base64,${(await page.screenshot({ fullPage: true })).toString('base64')}`
  await page.evaluate(`draw(${JSON.stringify(background)})`)
  shades[name] = await page.evaluate('shades()')
  const colours = await page.evaluate(`coloursIn(${JSON.stringify(texts.map(({ box }) => withoutLeading(box)))})`) as string[][]
  for (const [index, { content, colour }] of texts.entries()) {
    const least = Math.min(...(colours[index] ?? []).map(behind => contrast(rgb(colour), rgb(behind))))
    if (!(least >= MIN_CONTRAST)) fault(`"${content}" has a contrast of ${least.toFixed(1)}:1 with what is behind it`)
  }
}

/** Compares each picture with the approved one. Also notices one that has been added or removed. */
function compare (): void {
  const now = {
    files: Object.fromEntries(all.map(({ path, svg }) => [path, createHash('sha256').update(svg).digest('hex')])),
    shades: Object.fromEntries(Object.entries(shades).map(([name, list]) => [name, deflateSync(Uint8Array.from(list)).toString('base64')]))
  }
  if (asked.approve && faults.length === 0) writeFileSync(APPROVED, `${JSON.stringify(now, null, 2)}\n`)
  const { files, shades: approved } = JSON.parse(readFileSync(APPROVED, 'utf8')) as typeof now
  for (const path of new Set([...Object.keys(files), ...Object.keys(now.files)])) {
    if (now.files[path] === files[path]) continue
    faults.push(`${path}: ${now.files[path] === undefined ? 'is gone' : 'is not as approved: look at it, then approve it (see --help)'}`)
  }
  for (const [name, list] of Object.entries(shades)) {
    const most = difference(list, approved[name])
    if (most > TOLERANCE) faults.push(`${name}: does not look as approved, by ${most} of 255 shades`)
  }
}

/** The greatest difference of a part. */
function difference (list: number[], approved: string | undefined): number {
  const before = approved === undefined ? [] : inflateSync(Buffer.from(approved, 'base64'))
  return Math.max(...list.map((shade, index) => Math.abs(shade - (before[index] ?? 0))))
}

function isInside (inner: Box, outer: Box, margin: number): boolean {
  return inner.x >= outer.x + margin && inner.y >= outer.y + margin &&
    inner.x + inner.width <= outer.x + outer.width - margin && inner.y + inner.height <= outer.y + outer.height - margin
}

function overlap (one: Box, other: Box): boolean {
  const SLACK = 1
  return one.x + one.width > other.x + SLACK && other.x + other.width > one.x + SLACK &&
    one.y + one.height > other.y + SLACK && other.y + other.height > one.y + SLACK
}

/** The part of a line that contains its letters. */
function withoutLeading ({ x, y, width, height }: Box): Box {
  return { x, y: y + height * 0.2, width, height: height * 0.65 }
}
