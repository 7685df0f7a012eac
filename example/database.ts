// An embedded SQLite database, and notes in it.

import Database from 'libsql'

/**
 * Opens a database, which several processes on one machine may use.
 * @param path a file, or `:memory:`
 */
export function openDatabase (path: string): Database.Database {
  const database = new Database(path)
  // Several processes may write to the same file: wait for the lock.
  database.pragma('busy_timeout = 2000')
  // Readers, such as a backup, do not block the writer.
  database.pragma('journal_mode = WAL')
  return database
}

/** Moves the content of the write-ahead log to the database file, and closes it. */
export function closeDatabase (database: Database.Database): void {
  database.pragma('wal_checkpoint(TRUNCATE)')
  database.close()
}

export interface Note {
  id: number
  author: string
  text: string
}

export class NoteStore {
  readonly #database: Database.Database

  /** @param path a file, or `:memory:` */
  constructor (path: string) {
    this.#database = openDatabase(path)
    this.#database.exec('CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, author TEXT NOT NULL, text TEXT NOT NULL) STRICT')
  }

  // Statements are prepared for each call, which takes about 0.1 ms. With libsql, a statement that was prepared earlier
  // can still write after close(); a write after close() should throw.

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

  close (): void {
    closeDatabase(this.#database)
  }
}
