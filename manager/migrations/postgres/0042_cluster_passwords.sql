-- By registry, what seeds read it with: JSON, each sealed with the key of [manager] seal_key_file.
ALTER TABLE cluster ADD COLUMN passwords TEXT NOT NULL DEFAULT '{}';
