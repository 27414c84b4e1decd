//! Spreadsheets in and out: CSV and XLSX as rows of text.
//!
//! Both directions meet hostile content. Out: a cell that a spreadsheet program would take for a formula is made text.
//! In: an XLSX file is a zip archive, so what it unpacks to is measured before it is parsed.

use std::io::{Cursor, Read};

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use calamine::Reader as _;

use crate::problem::Problem;

pub(crate) const XLSX_TYPE: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";

/// Rows of one imported sheet.
pub(crate) const MAX_ROWS: usize = 5_000;
const MAX_COLUMNS: usize = 256;
/// Bytes that an XLSX archive may unpack to.
const MAX_UNPACKED: u64 = 64 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Csv,
    Xlsx,
}

impl Format {
    pub fn named(name: &str) -> Result<Self, Problem> {
        match name {
            "csv" => Ok(Self::Csv),
            "xlsx" => Ok(Self::Xlsx),
            _ => Err(Problem::field("format", "json, csv or xlsx")),
        }
    }

    pub fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Xlsx => "xlsx",
        }
    }
}

/// First row is the header.
pub(crate) struct Sheet {
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// Characters that make spreadsheet programs evaluate a cell.
fn is_formula_start(c: char) -> bool {
    matches!(c, '=' | '+' | '-' | '@' | '\t' | '\r')
}

/// A leading apostrophe makes a cell text (and `unescape` takes it away again).
pub(crate) fn escape(cell: &str) -> String {
    let escaped = cell.strip_prefix('\'').is_some_and(|rest| rest.starts_with(is_formula_start));
    if escaped || cell.starts_with(is_formula_start) { format!("'{cell}") } else { cell.to_owned() }
}

fn unescape(cell: &str) -> &str {
    let inner = cell.strip_prefix('\'').filter(|rest| rest.trim_start_matches('\'').starts_with(is_formula_start));
    inner.unwrap_or(cell)
}

pub(crate) fn write(format: Format, sheet: &Sheet) -> Result<Vec<u8>, Problem> {
    match format {
        Format::Csv => {
            // The byte order mark makes spreadsheet programs read UTF-8.
            let mut writer = csv::Writer::from_writer(b"\xEF\xBB\xBF".to_vec());
            let internal = |e: csv::Error| Problem::internal(&e);
            writer.write_record(sheet.header.iter().map(|c| escape(c))).map_err(internal)?;
            for row in &sheet.rows {
                writer.write_record(row.iter().map(|c| escape(c))).map_err(internal)?;
            }
            writer.into_inner().map_err(|e| Problem::internal(&e.error()))
        }
        Format::Xlsx => {
            let mut book = rust_xlsxwriter::Workbook::new();
            let page = book.add_worksheet();
            let rows = std::iter::once(&sheet.header).chain(&sheet.rows);
            for (y, row) in rows.enumerate() {
                for (x, cell) in row.iter().enumerate() {
                    let (Ok(y), Ok(x)) = (u32::try_from(y), u16::try_from(x)) else { break };
                    // Written as a string, a cell is never evaluated and needs no apostrophe. 32767 characters is the format's own limit.
                    let text: String = cell.chars().take(32_767).collect();
                    page.write_string(y, x, text).map_err(|e| Problem::internal(&e))?;
                }
            }
            book.save_to_buffer().map_err(|e| Problem::internal(&e))
        }
    }
}

pub(crate) fn response(format: Format, name: &str, bytes: Vec<u8>) -> Result<Response<Body>, Problem> {
    let mut response = Response::new(Body::from(bytes));
    let kind = match format {
        Format::Csv => "text/csv; charset=utf-8",
        Format::Xlsx => XLSX_TYPE,
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let disposition = format!("attachment; filename=\"{name}.{}\"", format.extension());
    let disposition = HeaderValue::from_str(&disposition).map_err(|e| Problem::internal(&e))?;
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}

pub(crate) fn read(format: Format, bytes: &[u8]) -> Result<Sheet, Problem> {
    let bad = |why: String| Problem::bad_request("parse_error", format!("the spreadsheet could not be read: {why}"));
    let mut rows: Vec<Vec<String>> = Vec::new();
    let too_many = || Problem::bad_request("too_many", format!("at most {MAX_ROWS} rows and {MAX_COLUMNS} columns"));
    match format {
        Format::Csv => {
            let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
            let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
            for record in reader.records() {
                let record = record.map_err(|e| bad(e.to_string()))?;
                if rows.len() > MAX_ROWS || record.len() > MAX_COLUMNS {
                    return Err(too_many());
                }
                rows.push(record.iter().map(|c| unescape(c).to_owned()).collect());
            }
        }
        Format::Xlsx => {
            measure(bytes)?;
            let mut book: calamine::Xlsx<_> = calamine::open_workbook_from_rs(Cursor::new(bytes))
                .map_err(|e: calamine::XlsxError| bad(e.to_string()))?;
            let first = book.sheet_names().first().cloned().ok_or_else(|| bad("it has no sheets".into()))?;
            let range = book.worksheet_range(&first).map_err(|e| bad(e.to_string()))?;
            for row in range.rows() {
                if rows.len() > MAX_ROWS || row.len() > MAX_COLUMNS {
                    return Err(too_many());
                }
                rows.push(row.iter().map(cell_text).collect());
            }
        }
    }
    let mut rows = rows.into_iter();
    let header = rows.next().ok_or_else(|| bad("it is empty".into()))?;
    let rows = rows.filter(|row| row.iter().any(|c| !c.trim().is_empty())).collect();
    Ok(Sheet { header, rows })
}

fn cell_text(cell: &calamine::Data) -> String {
    match cell {
        calamine::Data::Float(f) if f.fract() == 0.0 && f.abs() < 1e15 => format!("{f:.0}"),
        calamine::Data::DateTime(at) if at.is_datetime() => {
            let (year, month, day, hour, minute, second, _) = at.to_ymd_hms_milli();
            format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
        }
        other => other.to_string(),
    }
}

/// Refuses archives that unpack to more than a spreadsheet of the allowed size can need.
fn measure(bytes: &[u8]) -> Result<(), Problem> {
    let bad = |why: &dyn std::fmt::Display| {
        Problem::bad_request("parse_error", format!("the spreadsheet could not be read: {why}"))
    };
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| bad(&e))?;
    let mut left = MAX_UNPACKED;
    for at in 0..archive.len() {
        let entry = archive.by_index(at).map_err(|e| bad(&e))?;
        let unpacked = std::io::copy(&mut entry.take(left), &mut std::io::sink()).map_err(|e| bad(&e))?;
        left = left.saturating_sub(unpacked);
        if left == 0 {
            return Err(Problem::bad_request(
                "too_large",
                format!("the spreadsheet unpacks to more than {MAX_UNPACKED} bytes"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sheet {
        Sheet {
            header: vec!["Name".into(), "Comment".into()],
            rows: vec![
                vec!["=cmd|' /C calc'!A0".into(), "plain, with \"quotes\"\nand a line".into()],
                vec!["'-already".into(), "+1".into()],
            ],
        }
    }

    #[test]
    fn both_formats_round_trip_and_csv_never_holds_a_formula() {
        for format in [Format::Csv, Format::Xlsx] {
            let bytes = write(format, &sample()).unwrap();
            if format == Format::Csv {
                let text = String::from_utf8(bytes.clone()).unwrap();
                assert!(!text.contains("\n=") && !text.contains(",+"), "a cell starts a formula: {text}");
            }
            let back = read(format, &bytes).unwrap();
            assert_eq!(back.header, sample().header);
            assert_eq!(back.rows, sample().rows, "{format:?}");
        }
    }

    #[test]
    fn an_archive_that_unpacks_to_too_much_is_refused() {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("xl/workbook.xml", zip::write::SimpleFileOptions::default()).unwrap();
        let zeros = vec![0_u8; 1024 * 1024];
        for _ in 0..65 {
            std::io::Write::write_all(&mut zip, &zeros).unwrap();
        }
        let bytes = zip.finish().unwrap().into_inner();
        assert!(bytes.len() < 1024 * 1024);
        assert_eq!(read(Format::Xlsx, &bytes).err().unwrap().code, "too_large");
    }

    #[test]
    fn garbage_is_an_error_not_a_panic() {
        assert!(read(Format::Xlsx, b"PK\x03\x04 nonsense").is_err());
        assert!(read(Format::Csv, b"").is_err());
    }
}
