// Notes in an embedded SQLite database.

import Database from 'libsql'

export interface Note {
  id: number
  author: string
  text: string
}

export class NoteStore {
  readonly #database: Database.Database

  /** @param path a file, or `:memory:` */
  constructor (path: string) {
    this.#database = new Database(path)
    // Other processes write here, too, where several share one machine: wait for them.
    this.#database.pragma('busy_timeout = 2000')
    // Readers, a backup for instance, do not stop the writer.
    this.#database.pragma('journal_mode = WAL')
    this.#database.exec('CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, author TEXT NOT NULL, text TEXT NOT NULL) STRICT')
  }

  // Statements are prepared anew each time, for some 0.1 ms: libsql lets one that was prepared before write on after
  // close(), and a service that still writes then should hear of it.

  add (author: string, text: string): number {
    const { lastInsertRowid } = this.#database.prepare('INSERT INTO notes (author, text) VALUES (?, ?)').run(author, text)
    return Number(lastInsertRowid)
  }

  latest (count: number): Note[] {
    return this.#database.prepare('SELECT id, author, text FROM notes ORDER BY id DESC LIMIT ?').all(count) as Note[]
  }

  /** Whether the database answers, for the readiness probe. */
  answers (): boolean {
    return this.#database.prepare('SELECT 1').get() !== undefined
  }

  /** Brings what the write-ahead log holds into the database file, and closes it. */
  close (): void {
    this.#database.pragma('wal_checkpoint(TRUNCATE)')
    this.#database.close()
  }
}
